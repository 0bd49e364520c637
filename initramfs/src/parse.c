#include "parse.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

/* Cuts the text before the first delimiter off *rest; NULL at the end. */
static char *cut(char **rest, char delimiter)
{
	char *start = *rest;
	char *end;

	if (start == NULL || *start == '\0')
		return NULL;
	end = strchr(start, delimiter);
	if (end == NULL) {
		*rest = NULL;
	} else {
		*end = '\0';
		*rest = end + 1;
	}
	return start;
}

static void drop_newline(char *text)
{
	size_t size = strlen(text);

	if (size > 0 && text[size - 1] == '\n')
		text[size - 1] = '\0';
}

int parse_strings(char *text, size_t size, char **strings, size_t limit)
{
	size_t count = 0;
	size_t position = 0;

	while (position < size) {
		if (count + 1 >= limit)
			return -1;
		strings[count++] = text + position;
		position += strlen(text + position) + 1;
	}
	/* The last string ends with its own NUL, not with the one behind the file. */
	if (size > 0 && text[size - 1] != '\0')
		return -1;
	strings[count] = NULL;
	return 0;
}

int parse_number(const char *text, uint64_t limit, uint64_t *number)
{
	uint64_t value = 0;

	if (*text == '\0')
		return -1;
	for (; *text != '\0'; text++) {
		uint64_t digit = (uint64_t)(*text - '0');

		if (*text < '0' || *text > '9' || digit > limit || value > (limit - digit) / 10)
			return -1;
		value = value * 10 + digit;
	}
	*number = value;
	return 0;
}

int parse_user(char *text, struct user *user)
{
	char *rest = text;
	char *word;
	size_t position = 0;

	drop_newline(text);
	if (*text != '\0' && text[strlen(text) - 1] == ' ')
		return -1;
	user->group_count = 0;
	while ((word = cut(&rest, ' ')) != NULL) {
		uint64_t id;

		/* The largest id means "unchanged" to setuid and its kin. */
		if (parse_number(word, UINT32_MAX - 1, &id) != 0)
			return -1;
		if (position == 0)
			user->uid = (uint32_t)id;
		else if (position == 1)
			user->gid = (uint32_t)id;
		else if (user->group_count < GROUPS_MAX)
			user->groups[user->group_count++] = (uint32_t)id;
		else
			return -1;
		position++;
	}
	return position >= 2 ? 0 : -1;
}

static int hex_digit(char letter)
{
	if (letter >= '0' && letter <= '9')
		return letter - '0';
	return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

/* 32 small hexadecimal digits, in groups of 8, 4, 4, 4 and 12 with dashes between them. */
static int parse_uuid(const char *text, uint8_t *uuid)
{
	size_t digits = 0;

	if (strlen(text) != 36)
		return -1;
	memset(uuid, 0, UUID_SIZE);
	for (size_t i = 0; i < 36; i++) {
		int digit = hex_digit(text[i]);

		if (i == 8 || i == 13 || i == 18 || i == 23) {
			if (text[i] != '-')
				return -1;
			continue;
		}
		if (digit < 0)
			return -1;
		uuid[digits / 2] = (uint8_t)(uuid[digits / 2] << 4 | digit);
		digits++;
	}
	return 0;
}

/* Reads how the device is named; the volume's name goes without its prefix. */
static int parse_place(struct root_device *root)
{
	if (strncmp(root->device, "UUID=", 5) == 0) {
		root->place = BY_UUID;
		return parse_uuid(root->device + 5, root->uuid);
	}
	if (strncmp(root->device, "ISO=", 4) == 0) {
		root->place = ON_VOLUME;
		root->device += 4;
		return root->device[0] != '\0' ? 0 : -1;
	}
	root->place = AT_PATH;
	return root->device[0] == '/' ? 0 : -1;
}

int parse_root_device(char *text, struct root_device *root)
{
	char *rest = text;
	char *options;

	drop_newline(text);
	root->device = cut(&rest, ' ');
	root->type = cut(&rest, ' ');
	options = cut(&rest, ' ');
	if (root->device == NULL || root->type == NULL || options == NULL || rest != NULL)
		return -1;
	if (parse_place(root) != 0 || root->type[0] == '\0')
		return -1;
	root->dax = strcmp(options, "dax") == 0;
	return root->dax || strcmp(options, "-") == 0 ? 0 : -1;
}

static int parse_address(char *text, struct network *network)
{
	char *prefix = strchr(text, '/');
	uint64_t number;

	if (prefix == NULL)
		return -1;
	*prefix++ = '\0';
	if (parse_number(prefix, 32, &number) != 0 || inet_pton(AF_INET, text, &network->address) != 1)
		return -1;
	network->prefix = (uint8_t)number;
	network->has_address = true;
	return 0;
}

/* Six pairs of small hexadecimal digits with colons between them. */
static int parse_mac(const char *text, struct network *network)
{
	if (strlen(text) != 3 * MAC_SIZE - 1)
		return -1;
	for (size_t i = 0; i < MAC_SIZE; i++, text += 3) {
		int high = hex_digit(text[0]);
		int low = hex_digit(text[1]);

		if (high < 0 || low < 0 || text[2] != (i + 1 < MAC_SIZE ? ':' : '\0'))
			return -1;
		network->mac[i] = (uint8_t)(high << 4 | low);
	}
	network->has_mac = true;
	return 0;
}

int parse_network(char *text, struct network *network)
{
	char *rest = text;
	char *line;

	memset(network, 0, sizeof(*network));
	while ((line = cut(&rest, '\n')) != NULL) {
		char *value = strchr(line, ' ');

		if (strcmp(line, "dhcp") == 0) {
			network->is_dhcp = true;
			continue;
		}
		if (value == NULL)
			return -1;
		*value++ = '\0';
		if (strcmp(line, "address") == 0) {
			if (parse_address(value, network) != 0)
				return -1;
		} else if (strcmp(line, "gateway") == 0) {
			if (inet_pton(AF_INET, value, &network->gateway) != 1)
				return -1;
			network->has_gateway = true;
		} else if (strcmp(line, "mac") == 0) {
			if (parse_mac(value, network) != 0)
				return -1;
		} else {
			return -1;
		}
	}
	if (network->is_dhcp && (network->has_address || network->has_mac))
		return -1;
	return network->has_gateway && !network->has_address ? -1 : 0;
}

int parse_health_times(char *text, struct health_times *times)
{
	uint64_t *const fields[] = {&times->interval, &times->timeout, &times->start_period,
				    &times->start_interval, &times->retries};
	char *rest = text;

	drop_newline(text);
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		char *word = cut(&rest, ' ');

		if (word == NULL || parse_number(word, UINT32_MAX, fields[i]) != 0)
			return -1;
	}
	if (times->interval == 0 || times->timeout == 0 || times->start_interval == 0 ||
	    times->retries == 0)
		return -1;
	return rest == NULL ? 0 : -1;
}

size_t pick_resolvers(const char *told, char *picked, size_t room)
{
	static const char *const kept[] = {"nameserver ", "domain ", "search "};
	size_t size = 0;

	while (*told != '\0') {
		size_t length = strcspn(told, "\n");
		size_t line = length + (told[length] == '\n');

		for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
			if (strncmp(told, kept[i], strlen(kept[i])) != 0 || line > room - size)
				continue;
			memcpy(picked + size, told, line);
			size += line;
		}
		told += line;
	}
	return size;
}

int parse_terminal_size(char *text, struct terminal_size *size)
{
	char *rest = text;
	char *rows, *columns;
	uint64_t number;

	drop_newline(text);
	rows = cut(&rest, ' ');
	columns = cut(&rest, ' ');
	if (columns == NULL || rest != NULL || parse_number(rows, UINT16_MAX, &number) != 0)
		return -1;
	size->rows = (uint16_t)number;
	if (parse_number(columns, UINT16_MAX, &number) != 0)
		return -1;
	size->columns = (uint16_t)number;
	return 0;
}

/* An address as /proc/net/tcp and tcp6 show it: words of the host's order in hexadecimal. */
static bool is_loopback(const char *address, size_t length)
{
	static const char ipv6[] = "00000000000000000000000001000000";
	static const char mapped[] = "0000000000000000FFFF0000";
	size_t prefix = sizeof(mapped) - 1;

	if (length == sizeof(ipv6) - 1 && strncmp(address, ipv6, length) == 0)
		return true;
	if (length == prefix + 8 && strncmp(address, mapped, prefix) == 0) {
		address += prefix;
		length -= prefix;
	}
	return length == 8 && strncmp(address + 6, "7F", 2) == 0;
}

const char *next_listener(const char *table, struct listener *found)
{
	/* "  sl  local_address rem_address   st …": the fourth column is 0A for TCP_LISTEN. */
	while ((table = strchr(table, '\n')) != NULL) {
		const char *field = ++table;
		const char *local = field;
		size_t length;

		for (int column = 0; column < 3; column++) {
			field += strspn(field, " ");
			if (column == 1)
				local = field;
			field += strcspn(field, " \n");
		}
		field += strspn(field, " ");
		if (strncmp(field, "0A ", 3) != 0)
			continue;
		length = strspn(local, "0123456789ABCDEF");
		found->is_loopback = is_loopback(local, length);
		found->port = local[length] == ':' ? (uint16_t)strtoul(local + length + 1, NULL, 16) : 0;
		return table;
	}
	return NULL;
}
