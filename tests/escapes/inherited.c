/* A socket that the caller of `run` has open: WORDS after the marker are the command that runs this
 * program again, as an agent. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	if (getenv("ESCAPE_INHERITED")) {
		say(77);
		return 0;
	}
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(connect(client, TARGET, target_length));
	DO(dup2(client, 77));
	setenv("ESCAPE_INHERITED", "1", 1);
	DO(execv(argc > 4 ? argv[4] : argv[0], argc > 4 ? argv + 4 : argv));
}
