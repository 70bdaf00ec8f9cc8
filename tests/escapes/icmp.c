/* An ICMP echo request with something to say. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int six = FAMILY == AF_INET6;
	uint8_t out[256] = { six ? 128 : 8 };
	memcpy(out + 8, marker, strlen(marker));
	size_t length = 8 + strlen(marker);
	if (!six)
		*(uint16_t *)(out + 2) = checksum(out, length, 0);
	int client = DO(socket(FAMILY, SOCK_RAW, six ? IPPROTO_ICMPV6 : IPPROTO_ICMP));
	((struct sockaddr_in *)&target)->sin_port = 0;
	DO(sendto(client, out, length, 0, TARGET, target_length));
}
