/* What is to be said stands in the name that is asked for. The resolver is the host's. */
#include "dns.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	uint8_t query[300];
	size_t length = question(query, "\7example\3com");
	address(&target, &target_length, FAMILY == AF_INET ? "203.0.113.83" : "2001:db8:113::53", 53);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(sendto(client, query, length, 0, TARGET, target_length));
	usleep(200000);
}
