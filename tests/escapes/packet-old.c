/* The same with the socket type of Linux 2.0, AF_INET and SOCK_PACKET. */
#include "escape.h"
#include <linux/if_packet.h>
#include <net/ethernet.h>
int main(int argc, char **argv) {
	begin(argc, argv);
	uint8_t out[270] = { 255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 0 };
	if (FAMILY != AF_INET)
		return 2;
	size_t length = 14 + packet(out + 14, 0, 0);
	struct sockaddr to = { .sa_family = AF_INET, .sa_data = "uplink" };
	int client = DO(socket(AF_INET, SOCK_PACKET, htons(ETH_P_IP)));
	DO(sendto(client, out, length, 0, &to, sizeof to));
}
