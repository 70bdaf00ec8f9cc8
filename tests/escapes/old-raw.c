/* A raw socket that is there already when its process comes under the gate. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_RAW, 253));
	DO(setresuid(1000, 1000, 1000));
	await_go();
	((struct sockaddr_in *)&target)->sin_port = 0;
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
}
