/* A datagram in another's name (IP_TRANSPARENT). */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0)), yes = 1, six = FAMILY == AF_INET6;
	DO(setsockopt(client, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_TRANSPARENT : IP_TRANSPARENT, &yes, sizeof yes));
	struct sockaddr_storage from;
	socklen_t length;
	address(&from, &length, six ? "2001:db8:51::77" : "198.51.100.77", 5000);
	DO(bind(client, (struct sockaddr *)&from, length));
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
}
