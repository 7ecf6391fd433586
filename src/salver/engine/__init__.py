"""Where processes run. The rest of Salver knows only ``engine.interface``; which engine runs is decided at start."""
