/* A protocol of our own (253, for experiments: RFC 3692). */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_RAW, 253));
	((struct sockaddr_in *)&target)->sin_port = 0;
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
}
