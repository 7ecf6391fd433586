"""From what users write to the records that the controller gets: applications, their code, and where it is found."""
