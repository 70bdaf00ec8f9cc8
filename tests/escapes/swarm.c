/* Agents that are there for a moment: `swarm ADDRESS PORT MARKER DIRECTORY COUNT`. For each a cgroup of the name
 * `agent-NUMBER` is made in the directory, a process begins in it, dials once and ends, and the cgroup goes. Says
 * how many were let through and how many were refused.
 *
 * Not a way out: what a guard must bear. */
#include "escape.h"
#include <linux/sched.h>

/* How many cgroups are there at once, so that whoever looks for them finds some. */
enum { AT_ONCE = 64 };

static void name(char *path, size_t size, const char *directory, long number) {
	snprintf(path, size, "%s/agent-%ld", directory, number);
}

static void leave_cgroup(const char *directory, long number) {
	char path[4096];
	name(path, sizeof path, directory, number);
	/* Who has looked into it is gone in a moment. */
	while (rmdir(path) && errno == EBUSY)
		usleep(1000);
}

int main(int argc, char **argv) {
	begin(argc, argv);
	alarm(0);
	if (argc < 6) {
		fprintf(stderr, "usage: see the source\n");
		return 2;
	}
	const char *directory = argv[4];
	long count = atol(argv[5]), taken = 0, refusals = 0;
	for (long number = 0; number < count; number++) {
		char path[4096];
		if (number >= AT_ONCE)
			leave_cgroup(directory, number - AT_ONCE);
		name(path, sizeof path, directory, number);
		DO(mkdir(path, 0755));
		struct clone_args child = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD };
		int cgroup = DO(open(path, O_RDONLY | O_DIRECTORY));
		child.cgroup = cgroup;
		if (DO(syscall(SYS_clone3, &child, sizeof child)) == 0) {
			int client = socket(FAMILY, SOCK_STREAM | SOCK_NONBLOCK, 0);
			if (client < 0)
				_exit(errno == EPERM ? 1 : 2);
			if (!connect(client, TARGET, target_length) || errno == EINPROGRESS)
				_exit(0);
			_exit(errno == EPERM ? 1 : 2);
		}
		close(cgroup);
		int status;
		DO(wait(&status));
		if (!WIFEXITED(status) || WEXITSTATUS(status) > 1)
			return 1;
		*(WEXITSTATUS(status) ? &refusals : &taken) += 1;
	}
	for (long number = count > AT_ONCE ? count - AT_ONCE : 0; number < count; number++)
		leave_cgroup(directory, number);
	printf("%ld %ld\n", taken, refusals);
}
