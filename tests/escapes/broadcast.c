/* To everybody on the link. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	if (FAMILY != AF_INET)
		return 2;
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0)), yes = 1;
	DO(setsockopt(client, SOL_SOCKET, SO_BROADCAST, &yes, sizeof yes));
	address(&target, &target_length, "198.51.100.255", 9);
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
}
