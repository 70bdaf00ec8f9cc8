/* Out of the cgroup: its process moves itself to where nobody is governed. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	enter_cgroup(setting("ESCAPE_ELSEWHERE"));
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
}
