/* A socket of a process outside, taken from it (pidfd_getfd(2)). */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int other = DO(syscall(SYS_pidfd_open, atoi(setting("DEPUTY_PID")), 0));
	int taken = DO(syscall(SYS_pidfd_getfd, other, atoi(setting("DEPUTY_SOCKET")), 0));
	/* The answer to an earlier datagram of its owner's may be an error that is told now. */
	if (send(taken, marker, strlen(marker), 0) < 0)
		say(taken);
}
