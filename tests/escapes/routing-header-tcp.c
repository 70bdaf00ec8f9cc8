/* A connection to where the policy allows it, which is led by way of the canary once it is there. */
#include "routing.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	uint8_t header[40];
	size_t length = routing_header(header);
	address(&target, &target_length, setting("ESCAPE_ALLOWED6"), 7);
	int client = DO(socket(AF_INET6, SOCK_STREAM, 0));
	DO(connect(client, TARGET, target_length));
	DO(setsockopt(client, IPPROTO_IPV6, IPV6_RTHDR, header, length));
	say(client);
	leave(client);
}
