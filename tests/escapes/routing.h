/* A routing header (RFC 8754) that leads by way of the canary, which the packet is then addressed to: of
 * the two segments the kernel writes where it goes in the end. Any user may set one. */
#include "escape.h"
__attribute__((unused)) static size_t routing_header(uint8_t *out) {
	const uint8_t head[8] = { 0, 4, 4, 1, 1 };
	memset(out, 0, 40);
	memcpy(out, head, sizeof head);
	memcpy(out + 24, &((struct sockaddr_in6 *)&target)->sin6_addr, 16);
	return 40;
}
