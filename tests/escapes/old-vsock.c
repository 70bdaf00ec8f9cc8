/* An AF_VSOCK socket that is there already when its process comes under the gate. */
#include "escape.h"
#include <linux/vm_sockets.h>
static int dial(int client) {
	struct sockaddr_vm to = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_LOCAL, .svm_port = atoi(setting("DEPUTY_VSOCK")) };
	if (!to.svm_port) {
		fprintf(stderr, "no vsock here\n");
		exit(3);
	}
	return connect(client, (struct sockaddr *)&to, sizeof to);
}
int main(int argc, char **argv) {
	begin(argc, argv);
	int probe = DO(socket(AF_VSOCK, SOCK_STREAM, 0));
	if (dial(probe) < 0) {
		/* Without a transport for the host itself nobody answers. */
		if (errno == ETIMEDOUT)
			errno = ENODEV;
		refused("connect");
	}
	close(probe);
	int client = DO(socket(AF_VSOCK, SOCK_STREAM, 0));
	DO(setresuid(1000, 1000, 1000));
	await_go();
	if (dial(client) < 0)
		refused("connect");
	say(client);
	char answer;
	DO(read(client, &answer, 1));
}
