/* A socket from elsewhere, whose process is moved into an agent's cgroup. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(connect(client, TARGET, target_length));
	const char *cgroup = getenv("ESCAPE_CGROUP");
	if (cgroup)
		enter_cgroup(cgroup);
	say(client);
}
