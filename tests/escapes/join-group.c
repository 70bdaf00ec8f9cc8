/* Joining a group has the kernel tell the link its address, of the program's choice (IGMP, MLD). */
#include "join.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	make_group();
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0)), device = if_nametoindex("uplink");
	if (FAMILY == AF_INET) {
		struct ip_mreqn join = { ((struct sockaddr_in *)&group)->sin_addr, { 0 }, device };
		DO(setsockopt(client, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join));
	} else {
		struct ipv6_mreq join = { ((struct sockaddr_in6 *)&group)->sin6_addr, device };
		DO(setsockopt(client, IPPROTO_IPV6, IPV6_JOIN_GROUP, &join, sizeof join));
	}
	joined();
}
