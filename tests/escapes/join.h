/* Multicast groups that say something: the target's address, as far as it fits. */
#include "escape.h"
#include <net/if.h>

/* The group of the target, and how long it is: 28 bits of it, or 112. */
static struct sockaddr_storage group;

__attribute__((unused)) static void make_group(void) {
	group = target;
	if (FAMILY == AF_INET) {
		((uint8_t *)&((struct sockaddr_in *)&group)->sin_addr)[0] = 239;
	} else {
		uint8_t *bytes = ((struct sockaddr_in6 *)&group)->sin6_addr.s6_addr;
		bytes[0] = 0xff;
		bytes[1] = 0x05;
	}
}

/* The kernel tells the link a moment later; what was joined ends with the program. */
__attribute__((unused)) static void joined(void) {
	usleep(300000);
}
