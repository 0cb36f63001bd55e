"""What the server of forks does once, so that no attempt has to: import training, and read the code's fingerprint."""

import nmm.training.run  # noqa: F401
from nmm.training.code import this_code

this_code()  # as it is when the drills begin
