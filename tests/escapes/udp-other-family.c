/* A datagram with an IPv4 address on an IPv6 socket. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	if (FAMILY != AF_INET)
		return 2;
	int client = DO(socket(AF_INET6, SOCK_DGRAM, 0));
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
}
