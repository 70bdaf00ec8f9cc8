/* A question to everybody on the link who is in a group. */
#include "escape.h"
#include <net/if.h>
static void ask(const char *group, int port) {
	address(&target, &target_length, group, port);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	if (FAMILY == AF_INET6) {
		int device = if_nametoindex("uplink");
		DO(setsockopt(client, IPPROTO_IPV6, IPV6_MULTICAST_IF, &device, sizeof device));
	}
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
}
