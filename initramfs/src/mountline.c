#include "mountline.h"

#include <string.h>
#include <sys/mount.h>

#include "parse.h"

static const struct {
	const char *name;
	enum mount_kind kind;
} kinds[] = {
	{"9p", MOUNT_SHARE},     {"disk", MOUNT_DISK},     {"file", MOUNT_FILE},
	{"tmpfs", MOUNT_MEMORY}, {"volume", MOUNT_VOLUME}, {"pod", MOUNT_POD},
};

static const struct {
	const char *name;
	unsigned long flag;
} flags[] = {
	{"rw", 0},
	{"ro", MS_RDONLY},
	{"nosuid", MS_NOSUID},
	{"nodev", MS_NODEV},
	{"noexec", MS_NOEXEC},
	{"noatime", MS_NOATIME},
};

static int parse_kind(const char *name, enum mount_kind *kind)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(name, kinds[i].name) == 0) {
			*kind = kinds[i].kind;
			return 0;
		}
	}
	return -1;
}

/* Takes a word that is not for the file system; false if it is. */
static bool take_word(const char *word, struct mount_line *line)
{
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		if (strcmp(word, flags[i].name) == 0) {
			line->flags |= flags[i].flag;
			return true;
		}
	}
	if (strcmp(word, "fill") != 0)
		return false;
	line->is_filled = true;
	return true;
}

/* Words for the file system stay in text, moved to its beginning; the others become flags. */
static void parse_options(char *text, struct mount_line *line)
{
	char *kept = text;
	char *word = text;

	line->data = text;
	while (word != NULL) {
		char *end = strchr(word, ',');
		size_t size = end != NULL ? (size_t)(end - word) : strlen(word);

		word[size] = '\0';
		if (size > 0 && !take_word(word, line)) {
			if (kept != text)
				*kept++ = ',';
			memmove(kept, word, size);
			kept += size;
		}
		word = end != NULL ? end + 1 : NULL;
	}
	*kept = '\0';
}

int parse_mounts(char **strings, struct mount_line *lines, size_t limit, size_t *count)
{
	*count = 0;
	for (; strings[0] != NULL; strings += 4) {
		struct mount_line *line = &lines[*count];

		if (*count == limit)
			return -1;
		for (size_t i = 1; i < 4; i++) {
			if (strings[i] == NULL)
				return -1;
		}
		memset(line, 0, sizeof(*line));
		if (parse_kind(strings[0], &line->kind) != 0 || strings[2][0] != '/')
			return -1;
		line->source = strings[1];
		line->path = strings[2];
		/* A name in a directory, and no way out of it. */
		if ((line->kind == MOUNT_FILE || line->kind == MOUNT_POD) &&
		    (strchr(line->source, '/') || line->source[0] == '.' || strlen(line->source) > 255))
			return -1;
		parse_options(strings[3], line);
		if (line->kind == MOUNT_FILE && parse_number(line->data, INT64_MAX, &line->modified) != 0)
			return -1;
		++*count;
	}
	return 0;
}
