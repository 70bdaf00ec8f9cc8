/* A tunnel over the link, whose packets no socket sends (GRE; IP in IP is another). */
#include "tunnel.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	aim();
	send_through("gre");
}
