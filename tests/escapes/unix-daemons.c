/* The sockets of daemons that do what they are told: each of the paths in DEPUTY_UNIX has a mark of its own. */
#include "unix.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	char *paths = strdup(setting("DEPUTY_UNIX"));
	int reached = 0, number = 0;
	for (char *path = strtok(paths, ":"); path; path = strtok(NULL, ":"), number++) {
		pid_t child = DO(fork());
		if (!child) {
			char own[256];
			snprintf(own, sizeof own, "%sx%d", marker, number);
			marker = own;
			have_said(dial(path, 0));
			fprintf(stderr, "reached %s\n", path);
			exit(0);
		}
		int status;
		DO(waitpid(child, &status, 0));
		reached += status == 0;
	}
	return !reached;
}
