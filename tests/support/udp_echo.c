/* Sends back each datagram that comes to UDP port 53. */
#include <netinet/in.h>
#include <sys/socket.h>

int main(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(53)};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		return 1;
	for (;;) {
		char data[512];
		socklen_t size = sizeof(address);
		ssize_t count = recvfrom(fd, data, sizeof(data), 0, (struct sockaddr *)&address, &size);

		if (count < 0 || sendto(fd, data, count, 0, (struct sockaddr *)&address, size) < 0)
			return 1;
	}
}
