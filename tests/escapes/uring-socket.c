/* io_uring: makes the socket too (IORING_OP_SOCKET, number 45), which no filter of system calls sees: a
 * packet socket, past all of IP. */
#include "uring.h"
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
int main(int argc, char **argv) {
	begin(argc, argv);
	open_ring();
	uint8_t out[256];
	size_t length = packet(out, 0, 0);
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_halen = 6, .sll_addr = { 255, 255, 255, 255, 255, 255 },
		.sll_protocol = htons(FAMILY == AF_INET ? ETH_P_IP : ETH_P_IPV6) };
	int client = DO(request((struct io_uring_sqe){ .opcode = 45, .fd = AF_PACKET, .off = SOCK_DGRAM, .len = 0 }));
	to.sll_ifindex = if_nametoindex("uplink");
	DO(sendto(client, out, length, 0, (struct sockaddr *)&to, sizeof to));
}
