/* A datagram whose address says AF_UNSPEC, which an IPv4 socket takes for AF_INET. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	if (FAMILY != AF_INET)
		return 2;
	int client = DO(socket(AF_INET, SOCK_DGRAM, 0));
	target.ss_family = AF_UNSPEC;
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
}
