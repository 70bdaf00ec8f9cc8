/* A socket that is connected already when its process comes under the gate. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_STREAM, 0));
	DO(connect(client, TARGET, target_length));
	await_go();
	say(client);
}
