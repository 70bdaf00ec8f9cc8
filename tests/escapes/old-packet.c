/* A packet socket that is there already when its process comes under the gate, which has no capability by then. */
#include "escape.h"
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
int main(int argc, char **argv) {
	begin(argc, argv);
	uint8_t out[256];
	size_t length = packet(out, 0, 0);
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_halen = 6, .sll_addr = { 255, 255, 255, 255, 255, 255 },
		.sll_protocol = htons(FAMILY == AF_INET ? ETH_P_IP : ETH_P_IPV6) };
	int client = DO(socket(AF_PACKET, SOCK_DGRAM, 0));
	to.sll_ifindex = if_nametoindex("uplink");
	DO(setresuid(1000, 1000, 1000));
	await_go();
	DO(sendto(client, out, length, 0, (struct sockaddr *)&to, sizeof to));
}
