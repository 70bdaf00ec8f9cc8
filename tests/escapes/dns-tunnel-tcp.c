/* The same over TCP, and two questions in one go. */
#include "dns.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	uint8_t query[300] = { 0 };
	query[1] = question(query + 2, "\7example\3com");
	address(&target, &target_length, FAMILY == AF_INET ? "203.0.113.83" : "2001:db8:113::53", 53);
	int client = DO(socket(FAMILY, SOCK_STREAM, 0));
	DO(connect(client, TARGET, target_length));
	for (int n = 0; n < 2; n++)
		DO(send(client, query, 2 + query[1], MSG_NOSIGNAL));
	usleep(200000);
}
