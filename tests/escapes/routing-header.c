/* A datagram to where the policy allows it, by way of the canary. */
#include "routing.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	uint8_t header[40];
	size_t length = routing_header(header);
	address(&target, &target_length, setting("ESCAPE_ALLOWED6"), 7);
	int client = DO(socket(AF_INET6, SOCK_DGRAM, 0));
	DO(setsockopt(client, IPPROTO_IPV6, IPV6_RTHDR, header, length));
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
}
