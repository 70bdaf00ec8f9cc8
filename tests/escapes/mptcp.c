/* MPTCP, whose subflows the kernel opens itself. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	DO(connect(DO(socket(FAMILY, SOCK_STREAM, 262)), TARGET, target_length));
}
