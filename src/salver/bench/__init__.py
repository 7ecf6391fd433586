"""An HTTP load generator that does not hide what it came to measure: ``salver bench``.

Most generators send a request when the one before it has been answered. While the server stalls for a second, they
send nothing, so the thousand requests that would have met the stall are missing from the percentiles. Gil Tene has
named this *coordinated omission*, and his wrk2 is where the remedy comes from: requests have a schedule that does not
know the server, and latency counts from the moment at which a request was due, not from when it could be sent.

    schedule ── due ──> generator ── sends on an idle connection ──> connection ── what became of it ──> tally
                            │                                                                             │
           all connections busy: requests wait in                              histograms, counts ──> report
           the schedule, and their clocks run

``schedule``, ``histogram``, ``tally``, ``objective`` and ``report`` are pure: time is an argument. ``alarm``,
``connection``, ``generator`` and ``course`` touch the clock and the network. Memory is bounded whatever happens: what
waits is a position in the schedule, what was measured is in histograms, and answers are counted, never kept.
"""
