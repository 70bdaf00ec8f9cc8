"""How long programs take from their start to their end, in turns: `starts.py TIMES COMMANDS`.

COMMANDS is JSON, a list of lists of words. Each line of the output is a command's place in it and
nanoseconds.
"""

import json
import os
import sys
import time

times, commands = int(sys.argv[1]), json.loads(sys.argv[2])
for _ in range(times):
    for place, words in enumerate(commands):
        begun = time.perf_counter_ns()
        child = os.posix_spawnp(words[0], words, os.environ)
        _, status = os.waitpid(child, 0)
        taken = time.perf_counter_ns() - begun
        assert status == 0, (words, status)
        print(place, taken)
