/* A datagram put together by two calls (MSG_MORE), of which the second has no address. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(sendto(client, marker, strlen(marker), MSG_MORE, TARGET, target_length));
	DO(send(client, "", 0, 0));
}
