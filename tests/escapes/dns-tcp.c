/* A resolver of our own: the canary is asked, over TCP. */
#include "dns.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	set_port(53);
	uint8_t query[300] = { 0 };
	query[1] = question(query + 2, "\7example");
	int client = DO(socket(FAMILY, SOCK_STREAM, 0));
	DO(connect(client, TARGET, target_length));
	DO(send(client, query, 2 + query[1], MSG_NOSIGNAL));
	usleep(200000);
}
