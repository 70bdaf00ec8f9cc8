/* SCTP, many associations a socket: sendto(2) dials. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_SEQPACKET, IPPROTO_SCTP));
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
}
