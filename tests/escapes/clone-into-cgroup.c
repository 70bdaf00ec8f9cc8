/* A child that begins elsewhere (CLONE_INTO_CGROUP). */
#include "escape.h"
#include <linux/sched.h>
int main(int argc, char **argv) {
	begin(argc, argv);
	struct clone_args child = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD };
	child.cgroup = DO(open(setting("ESCAPE_ELSEWHERE"), O_RDONLY | O_DIRECTORY));
	if (DO(syscall(SYS_clone3, &child, sizeof child)) == 0) {
		int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
		DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
		exit(0);
	}
	int status;
	DO(wait(&status));
	return WEXITSTATUS(status);
}
