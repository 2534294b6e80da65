# A fifth shape of work must compile nowhere until it is handled: every file that visits Work fails
# with PIPEMOE_PROBE_FIFTH_WORK, which adds one (models/work.hpp), in each of its visits, and
# compiles without it.
#   cmake -DSOURCE=<project> -DBUILD=<build folder> -DCOMPILER_ID=<CMAKE_CXX_COMPILER_ID> -P <this>
cmake_minimum_required(VERSION 3.25)

file(READ ${BUILD}/compile_commands.json commands)
string(JSON last LENGTH "${commands}")
math(EXPR last "${last} - 1")

# Sets `out` to the command that checks the syntax of a file of a folder; empty where the build does
# not compile the folder. A build in batches has no command of its own for a file: any of its
# library's will do.
function(syntax_command folder source out)
  set(${out} "" PARENT_SCOPE)
  foreach(i RANGE ${last})
    string(JSON compiled GET "${commands}" ${i} file)
    string(JSON text GET "${commands}" ${i} command)
    if(NOT text MATCHES "pipemoe_${folder}\\.dir/" OR NOT compiled MATCHES "\\.c(pp|xx)$")
      continue()
    endif()
    separate_arguments(arguments UNIX_COMMAND "${text}")
    list(FIND arguments -o at)
    list(REMOVE_AT arguments ${at})
    list(REMOVE_AT arguments ${at})
    list(REMOVE_ITEM arguments -c ${compiled})
    set(${out} ${arguments} -fsyntax-only -w ${source} PARENT_SCOPE)
    return()
  endforeach()
endfunction()

set(ENV{LC_ALL} C)
set(checked 0)
file(GLOB_RECURSE sources RELATIVE ${SOURCE}
     ${SOURCE}/models/*.cpp ${SOURCE}/sim/*.cpp ${SOURCE}/exec/*.cpp)
list(FILTER sources EXCLUDE REGEX "/bench/")
foreach(source ${sources})
  string(REGEX MATCH "^[a-z]+" folder ${source})
  set(path ${SOURCE}/${source})
  file(READ ${path} text)
  if(text MATCHES "(get_if|holds_alternative)<(Products|MemoryTraffic|Collective|Timed)>")
    message(SEND_ERROR "${source}: asks for one shape of work, must visit all")
  endif()
  # Of the visits with Overloaded, those of Work have a lambda for Products.
  string(REGEX MATCHALL "\\[[^]]*\\]\\(const Products&" visits "${text}")
  list(LENGTH visits visits)
  if(visits EQUAL 0 OR NOT text MATCHES "Overloaded{")
    continue()
  endif()
  syntax_command(${folder} ${path} command)
  if(NOT command)
    continue()
  endif()
  execute_process(COMMAND ${command} RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE errors)
  if(NOT result EQUAL 0)
    message(SEND_ERROR "${source} does not compile as it is:\n${errors}")
  endif()
  execute_process(COMMAND ${command} -DPIPEMOE_PROBE_FIFTH_WORK
                  RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE errors)
  set(refusal "error: [^\n]*Overloaded<")
  if(COMPILER_ID STREQUAL GNU)  # which says this once for each visit
    set(refusal "no type named 'type' in 'struct std::invoke_result<pipemoe::Overloaded<")
  endif()
  string(REGEX MATCHALL "${refusal}" refused "${errors}")
  list(LENGTH refused refused)
  if(result EQUAL 0 OR refused LESS visits)
    message(SEND_ERROR "${source}: ${refused} of ${visits} visits refuse a fifth shape of work")
  endif()
  message(STATUS "${source}: ${visits} visits refuse a fifth shape of work")
  math(EXPR checked "${checked} + 1")
endforeach()
if(checked LESS 4)
  message(SEND_ERROR "${checked} files visit work, expected at least work, task_graph, costs and "
                     "task_graph_io in models/")
endif()
