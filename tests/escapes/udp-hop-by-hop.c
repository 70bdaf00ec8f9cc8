/* IPv6 options for each router in front of a datagram. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(AF_INET6, SOCK_DGRAM, 0));
	unsigned char options[8] = { 0, 0, 1, 4 };
	DO(setsockopt(client, IPPROTO_IPV6, IPV6_HOPOPTS, options, sizeof options));
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
}
