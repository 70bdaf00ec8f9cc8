/* TCP_FASTOPEN_CONNECT: connect(2) sends nothing, the first write(2) dials. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_STREAM, 0)), yes = 1;
	DO(setsockopt(client, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &yes, sizeof yes));
	DO(connect(client, TARGET, target_length));
	say(client);
}
