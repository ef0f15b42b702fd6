/*
 * A library with NVRTC's functions, to try our calls of them: "compiling" gives an ELF magic, the options and the text back as the cubin. Text that begins with "slow"
 * takes a while, "#error" is refused, "spill" is reported to spill, of "silent" nothing is said, and of "known" only when
 * another kernel follows it: NVRTC says nothing of what is in its caches, which a comment does not change.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct program {
  char *text, *name, *binary, *log;
  size_t size;
};

int nvrtcVersion(int *major, int *minor) {
  *major = 13;
  *minor = 7;
  return 0;
}

const char *nvrtcGetErrorString(int result) { return result == 6 ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR_INVALID_INPUT"; }

int nvrtcCreateProgram(struct program **out, const char *text, const char *name, int headers, const char *const *texts, const char *const *names) {
  if (headers != 0 || texts || names) return 2;
  struct program *p = calloc(1, sizeof *p);
  p->text = strdup(text);
  p->name = strdup(name);
  *out = p;
  return 0;
}

int nvrtcCompileProgram(struct program *p, int count, const char *const *options) {
  if (strncmp(p->text, "slow", 4) == 0) usleep(200000);
  p->log = calloc(1, 4096);
  if (strstr(p->text, "#error")) {
    snprintf(p->log, 4096, "%s(1): error: #error", p->name);
    return 6;
  }
  p->binary = calloc(1, 4096 + strlen(p->text));
  strcpy(p->binary, "\177ELF");
  for (int i = 0; i < count; i++) strcat(strcat(p->binary, options[i]), "\n");
  strcat(p->binary, p->text);
  p->size = strstr(p->text, "nothing") ? 0 : strlen(p->binary);
  int spills = strstr(p->text, "spill") != NULL;
  if (!strstr(p->text, "silent") && (strncmp(p->text, "known", 5) != 0 || strstr(p->text, "__global__")))
    snprintf(p->log, 4096,
             "ptxas info    : Compiling entry function '%.*s' for 'sm_90'\n"
             "ptxas         .     %d bytes stack frame, %d bytes spill stores, %d bytes spill loads\n"
             "ptxas info    : Used 255 registers",
             (int)(strlen(p->name) - 3), p->name, spills ? 8 : 0, spills ? 4 : 0, spills ? 4 : 0);
  return 0;
}

int nvrtcGetCUBINSize(struct program *p, size_t *out) {
  *out = p->size;
  return 0;
}

int nvrtcGetCUBIN(struct program *p, char *out) {
  memcpy(out, p->binary, p->size);
  return 0;
}

int nvrtcGetProgramLogSize(struct program *p, size_t *out) {
  *out = strlen(p->log) + 1;
  return 0;
}

int nvrtcGetProgramLog(struct program *p, char *out) {
  strcpy(out, p->log);
  return 0;
}

int nvrtcDestroyProgram(struct program **p) {
  free((*p)->text);
  free((*p)->name);
  free((*p)->binary);
  free((*p)->log);
  free(*p);
  *p = NULL;
  return 0;
}
