/* Asking for one sender of a group tells the link any address at all. */
#include "join.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	make_group();
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	struct group_source_req join = { .gsr_interface = if_nametoindex("uplink") };
	socklen_t length;
	address(&join.gsr_group, &length, FAMILY == AF_INET ? "239.1.1.1" : "ff05::1:1", 0);
	join.gsr_source = target;
	DO(setsockopt(client, FAMILY == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP, &join, sizeof join));
	joined();
}
