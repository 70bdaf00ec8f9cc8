/* The same without a capability: a ping socket. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int six = FAMILY == AF_INET6;
	uint8_t out[256] = { six ? 128 : 8 };
	memcpy(out + 8, marker, strlen(marker));
	int client = DO(socket(FAMILY, SOCK_DGRAM, six ? IPPROTO_ICMPV6 : IPPROTO_ICMP));
	((struct sockaddr_in *)&target)->sin_port = 0;
	DO(sendto(client, out, 8 + strlen(marker), 0, TARGET, target_length));
}
