/* A ping socket that is there already when its process comes under the gate. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int six = FAMILY == AF_INET6;
	uint8_t out[256] = { six ? 128 : 8 };
	size_t length = 8 + strlen(marker);
	memcpy(out + 8, marker, strlen(marker));
	int client = DO(socket(FAMILY, SOCK_DGRAM, six ? IPPROTO_ICMPV6 : IPPROTO_ICMP));
	await_go();
	((struct sockaddr_in *)&target)->sin_port = 0;
	DO(sendto(client, out, length, 0, TARGET, target_length));
}
