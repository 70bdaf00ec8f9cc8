/* Data in the SYN: sendto(2) with MSG_FASTOPEN dials without connect(2). */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_STREAM, 0));
	DO(sendto(client, marker, strlen(marker), MSG_FASTOPEN, TARGET, target_length));
}
