"""How long is too long, and why. What is below these happens in health."""

# The dispatcher looks once a second, and at each wake-up. Five looks missed are no accident.
DISPATCH_SECONDS = 5.0
# The same, watched from here while everything that it needs is there: three looks, so that the answer does not take long.
WATCHED_SECONDS = 3.0
# A lost message is found at the first look after `lost_after_seconds`; a busy server has some more to do.
LOST_SLACK_SECONDS = 8.0
# A dead worker's claims are rescued at the first look after `dead_after_seconds`, and that silence is counted anew by a
# server that has just come.
RESCUE_SLACK_SECONDS = 10.0
# After the grace the worker kills the process at its next look, five times a second; its successor records what it held.
KILL_SLACK_SECONDS = 5.0
# Nobody else has business with a task's row.
LOCK_SECONDS = 5.0
# Our own transactions are shorter, but a machine may be slow; and whoever waits for a lock of ours gives up after 20 s.
OWN_LOCK_SECONDS = 20.0
# Whoever works on a task holds its row again and again, each time for less than that.
MOMENT_SECONDS = 1.0
# A worker that has just come is about to take what waits.
NEW_WORKER_SECONDS = 10.0
# "Far longer": ten times what is typical, so that kinds that vary say nothing, and a minute, so that quick ones do not either.
OVERLONG_FACTOR = 10.0
OVERLONG_SECONDS = 60.0
# A full task is worth a word when all that fills it has run for long, and for longer than its kind takes.
FULL_SECONDS = 30.0
FULL_FACTOR = 2.0
