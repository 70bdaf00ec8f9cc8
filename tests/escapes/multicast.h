/* mDNS (RFC 6762) and LLMNR (RFC 4795): questions to everybody on the link. */
#include "escape.h"
#include <net/if.h>
int main(int argc, char **argv) {
	begin(argc, argv);
	int six = FAMILY == AF_INET6, sent = 0;
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	if (six) {
		int device = if_nametoindex("uplink");
		DO(setsockopt(client, IPPROTO_IPV6, IPV6_MULTICAST_IF, &device, sizeof device));
	}
	const char *groups[] = { six ? "ff02::fb" : "224.0.0.251", six ? "ff02::1:3" : "224.0.0.252" };
	for (int n = 0; n < 2; n++) {
		address(&target, &target_length, groups[n], n ? 5355 : 5353);
		if (sendto(client, marker, strlen(marker), 0, TARGET, target_length) > 0)
			sent++;
		else
			perror("sendto");
	}
	return !sent;
}
