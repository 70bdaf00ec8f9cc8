/* A resolver of our own: the canary is asked, over UDP. */
#include "dns.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	set_port(53);
	uint8_t query[300];
	size_t length = question(query, "\7example");
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(sendto(client, query, length, 0, TARGET, target_length));
}
