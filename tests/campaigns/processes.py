"""The server that forks the processes of all campaigns, once their modules are imported.

There is one such server in a process, for all campaigns that the process runs, as the tests do:
a module that the server has not imported costs every fork many seconds.
"""

import multiprocessing

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        *("tests.campaigns.client", "tests.campaigns.hostile.victim", "tests.campaigns.kills"),
        *("tests.campaigns.tiny", "tests.trainer.small_training", "keras_spm.trainer"),
        # Keras and its callbacks look for TensorFlow.
        *("grain", "tensorflow"),
    ]
)
