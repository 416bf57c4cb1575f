"""Settings for every suite: examples are the same on every run, unless somebody goes exploring.

``HYPOTHESIS_PROFILE=explore make test-pure`` draws new examples, ten times as many, and
remembers what failed.
"""

import os

import hypothesis

hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
