#include "train/commands/command.h"

int main(int argc, char** argv) {
  return quietformer::run_command_line(argc, argv);
}
