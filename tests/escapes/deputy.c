/* A process that nobody governs and that does what it is told by whoever reaches it: it sends the
 * canary what it was told. Prints where it can be reached, one `NAME=VALUE` a line, then `ready`.
 *
 * `deputy ADDRESS PORT DIRECTORY`. It ends with its standard input. */
#include "escape.h"
#include <linux/vm_sockets.h>
#include <stddef.h>

static int out;
/* What is written here by another process is sent. */
static volatile char cell[64] = "";

static void tell(const char *text, size_t length) {
	/* The answer to an earlier one may be an error that is told now. */
	for (int tries = 0; tries < 3 && sendto(out, text, length, 0, TARGET, target_length) < 0; tries++)
		;
}

static int local(int family, int type, int *port) {
	struct sockaddr_storage own;
	socklen_t length;
	address(&own, &length, family == AF_INET ? "127.0.0.1" : "::1", 0);
	int made = DO(socket(family, type, 0));
	DO(bind(made, (struct sockaddr *)&own, length));
	DO(getsockname(made, (struct sockaddr *)&own, &length));
	*port = ntohs(((struct sockaddr_in *)&own)->sin_port);
	if (type == SOCK_STREAM)
		DO(listen(made, 8));
	return made;
}

static int unix_at(const char *path, int abstract) {
	struct sockaddr_un own = { .sun_family = AF_UNIX };
	snprintf(own.sun_path + abstract, sizeof own.sun_path - abstract, "%s", path);
	socklen_t length = offsetof(struct sockaddr_un, sun_path) + abstract + strlen(path);
	int made = DO(socket(AF_UNIX, SOCK_STREAM, 0));
	DO(bind(made, (struct sockaddr *)&own, length));
	if (!abstract)
		chmod(path, 0666);
	DO(listen(made, 8));
	return made;
}

/* Hands the socket out. */
static void give(int to) {
	char control[CMSG_SPACE(sizeof out)] = { 0 }, byte = 'x';
	struct iovec text = { &byte, 1 };
	struct msghdr message = { .msg_iov = &text, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *head = (struct cmsghdr *)control;
	*head = (struct cmsghdr){ CMSG_LEN(sizeof out), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(head), &out, sizeof out);
	sendmsg(to, &message, MSG_NOSIGNAL);
}

int main(int argc, char **argv) {
	begin(argc, argv);
	alarm(0);
	signal(SIGPIPE, SIG_IGN);
	/* As if its user had started it. */
	DO(prctl(PR_SET_DUMPABLE, 1));
	char path[4096];
	struct pollfd wait[32] = { { .fd = 0, .events = POLLIN } };
	int count = 1, port;
	out = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(connect(out, TARGET, target_length));
	printf("DEPUTY_PID=%d\nDEPUTY_SOCKET=%d\nDEPUTY_CELL=%lx\n", getpid(), out, (unsigned long)cell);
	wait[count++].fd = local(AF_INET, SOCK_STREAM, &port);
	printf("DEPUTY_TCP4=%d\n", port);
	wait[count++].fd = local(AF_INET6, SOCK_STREAM, &port);
	printf("DEPUTY_TCP6=%d\n", port);
	wait[count++].fd = local(AF_INET, SOCK_DGRAM, &port);
	printf("DEPUTY_UDP4=%d\n", port);
	wait[count++].fd = local(AF_INET6, SOCK_DGRAM, &port);
	printf("DEPUTY_UDP6=%d\n", port);
	snprintf(path, sizeof path, "escape-%d", getpid());
	wait[count++].fd = unix_at(path, 1);
	printf("DEPUTY_ABSTRACT=%s\n", path);
	for (int n = 4; n < argc; n++) {
		if (count > 24)
			return 2;
		wait[count++].fd = unix_at(argv[n], 0);
	}
	snprintf(path, sizeof path, "%s/box", marker);
	DO(mkfifo(path, 0666));
	chmod(path, 0666);
	wait[count++].fd = DO(open(path, O_RDWR | O_NONBLOCK));
	printf("DEPUTY_BOX=%s\n", path);
	struct sockaddr_vm vm = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = VMADDR_PORT_ANY };
	socklen_t length = sizeof vm;
	int server = socket(AF_VSOCK, SOCK_STREAM, 0), there = 0;
	if (server >= 0 && bind(server, (struct sockaddr *)&vm, sizeof vm) == 0 && listen(server, 8) == 0 &&
	    getsockname(server, (struct sockaddr *)&vm, &length) == 0) {
		wait[count++].fd = server;
		there = vm.svm_port;
	}
	printf("DEPUTY_VSOCK=%d\nready\n", there);
	fflush(stdout);
	for (int n = 0; n < count; n++)
		wait[n].events = POLLIN;
	for (;;) {
		poll(wait, count, 50);
		if (wait[0].revents)
			return 0;
		if (cell[0]) {
			tell((char *)cell, strlen((char *)cell));
			memset((void *)cell, 0, sizeof cell);
		}
		for (int n = 1; n < count; n++) {
			char text[512];
			if (!wait[n].revents)
				continue;
			int client = accept(wait[n].fd, NULL, NULL), from = client < 0 ? wait[n].fd : client;
			struct timeval limit = { .tv_usec = 500000 };
			if (client >= 0)
				setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
			ssize_t got = read(from, text, sizeof text - 1);
			if (got > 0 && client >= 0 && !strncmp(text, "give", 4))
				give(client);
			else if (got > 0)
				tell(text, got);
			if (client >= 0) {
				write(client, "x", 1);
				close(client);
			}
		}
	}
}
